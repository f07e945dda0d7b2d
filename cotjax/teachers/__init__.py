"""Models, servers and texts that teach: who they are, what they give, and when."""
