"""Networks in other runtimes: ONNX files, OpenVINO models and int8 quantisation.

Start with `onnx.export_onnx`; `layout` rewrites the stages of a network for a runtime before they are exported.
"""
