"""Runs engines: buffers, CUDA graphs, batches, segments, time, profile. CuPy and TensorRT are loaded on opening one."""
