"""From a folder of results to the table a paper prints and a page one wants to look at.

entries -> comparison (statistics, answers) -> tables: md, latex, csv
                                            -> page: plots, class_map, anchor_view, thumbnails, templates/
"""
