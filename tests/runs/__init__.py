"""`pixelbeam run` from folder to dataset, with a tiny module: what is made, gone on with, refused."""
