"""Export a transformers folder to OpenVINO in 4 bits, group-wise, without data.

Usage: make_openvino.py FOLDER OUT
"""

import sys

from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

four_bits = OVWeightQuantizationConfig(bits=4, sym=True, group_size=128, ratio=1.0)
model = OVModelForCausalLM.from_pretrained(
    sys.argv[1], export=True, compile=False, load_in_8bit=False, quantization_config=four_bits
)
model.save_pretrained(sys.argv[2])
