"""The test server of the Dataflow API answers Beam's own client as the real one does, and executes what it is given."""
