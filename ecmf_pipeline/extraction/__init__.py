"""Extract features from clips into stores: find what is missing, and decode each clip once for all media branches."""
