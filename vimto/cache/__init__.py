"""The cache directory: what vimto has made, downloaded or found out, for later runs."""
