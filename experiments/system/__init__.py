"""What has nothing to do with networks: files, locks, the command line, XLA, several processes."""
