"""Time-series windows: which there are (index), what is drawn (step), and the engines that cut them."""
