"""Numbers from a real GPU: ``python -m bench.gpu --out FOLDER --seconds 600``; see README.md."""
