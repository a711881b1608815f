"""Words to arrays: what a data set says, as numbers of fixed shape."""
