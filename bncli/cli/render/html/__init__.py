"""Pages that load nothing, made of HTML that is escaped by construction; shared by the commands that write one.

::

    document       a whole page: head, policy, style and script
    markup         elements
    svg, chart     plots as inline SVG
    png            images as data URLs
"""
