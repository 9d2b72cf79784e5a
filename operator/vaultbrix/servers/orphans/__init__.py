"""What no object explains any more, on a server and in the cluster: told, and ended where that loses nothing."""
