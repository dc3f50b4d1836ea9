"""Owns the building of TensorRT plans from ONNX files, and the cache of built plans.

May import the rest of `backends.trt`. Works on a machine without a GPU.
"""
