import os

__version__ = "0.1.0"

# ONNX Runtime 1.29 and newer would tell its makers which models are opened. Nothing leaves this device.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
