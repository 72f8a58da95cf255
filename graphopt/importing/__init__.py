"""The door for models of other frameworks: which importer takes a source, the conversion in a child process, and the
comparison of the ONNX model with what the framework itself computes."""
