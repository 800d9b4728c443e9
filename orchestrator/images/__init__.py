"""What images are made of: package sources, locks, the base image, and the builds with their record."""
