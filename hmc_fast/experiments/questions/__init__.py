"""One question of the paper per file: `QUESTION`, and `answer(lab, page)`, which fills in the page."""
