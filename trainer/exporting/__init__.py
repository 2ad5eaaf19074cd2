"""A finished run -> an ONNX bundle, and a verified bundle -> the published models."""
