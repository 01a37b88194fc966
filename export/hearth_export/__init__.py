import os

# see hearthd; the exporter is a program of its own too
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
