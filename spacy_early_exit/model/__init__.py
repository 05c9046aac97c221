"""thinc's side: the model that holds the network, runs it, and learns."""
