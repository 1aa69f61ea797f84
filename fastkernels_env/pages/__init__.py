"""Pages: self-contained HTML documents made from records, and the figures in them. Nothing here imports torch.

`html` builds a page from sections, `figures` draws plain data as SVG. Figures need the extra ``plots``.
"""
