"""How the embedded model is made: `python -m memfast.demo.build --out DIR`."""
