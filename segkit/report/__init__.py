"""What a person looks at: overlays, charts, score tables and the HTML page of a run. No torch.

colors.py   class colours
display.py  any array as an 8-bit RGB picture
overlay.py  labels over an image, and the panel image | truth | prediction | errors
charts.py   line charts as SVG
table.py    scores in the terminal and as CSV
page.py     the one-file HTML report
sweep.py    the table of a sweep
"""
