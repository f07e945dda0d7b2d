"""The teachers: models, servers and texts; what they give a loss, and their schedule."""
