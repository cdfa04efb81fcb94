"""Imports everything that a command may, for the children of the process that imports this."""

import importlib
import pkgutil

import diffusers
import torch

import memfast

torch.set_num_threads(1)
for module in pkgutil.walk_packages(memfast.__path__, "memfast."):
    if "demo.build" not in module.name and not module.name.endswith("__main__"):
        importlib.import_module(module.name)
for kind in ("StableDiffusionPipeline", "UNet2DConditionModel", "DDIMScheduler", "AutoencoderKL"):
    getattr(diffusers, kind)
