"""The KFP graphs, their compilation, the local run and the command line."""
