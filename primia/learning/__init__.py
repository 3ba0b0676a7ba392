"""Models, private training and evaluation at one site.

Importing this package loads no torch: `metrics` and `terms` serve the coordinator's report and
the price of a plan. Import the module you need by name.
"""
