"""From a region's config to a model that follows it: who may change what, and what follows."""
