"""Runs engines: buffers, CUDA graphs, time, profile. CuPy and TensorRT are loaded when an engine is opened."""
