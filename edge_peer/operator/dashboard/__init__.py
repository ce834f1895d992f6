"""The live dashboard: one static page that shows a federation's documents as the broker sends them.

`web/` has its modules, `vendor/` the libraries that it uses; `page.py` makes one file of them.
"""
