"""The commands of Pixelbeam and the pipeline that they launch."""
