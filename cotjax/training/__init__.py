"""The shared loop: update, checkpoint, metrics. Receives a loss, knows no stage."""
