"""What a person looks at: overlays, curves, score tables and the HTML page of a run.

    colors.py    class colours
    display.py   any array as an 8-bit RGB picture
    overlay.py   labels over an image, and the panel image | truth | prediction | errors
    curves.py    line charts as inline SVG
    table.py     per-class scores in the terminal and as CSV
    page.py      the one-file HTML report
    template.py  the templates beside these files, filled in

Nothing here needs torch: everything works on NumPy arrays and plain Python values.
"""
