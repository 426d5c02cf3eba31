"""What a dataset looks like, as one HTML page: what is sampled, what each section says, charts, pictures, the page."""
