# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the page of a recovery's report holds. PRIVATE to the collection."""

from __future__ import annotations

import string

CONTENT = string.Template("""\
<header><h1>$title</h1>$badge<p>run $run</p></header>
<div class="cards">$cards</div>
<h2>Phases</h2><div class="panel">$phases</div>
<h2>Times</h2><div class="panel">$times</div>
<h2>Checks</h2><div class="panel">$checks</div>
<h2>Assertions</h2><div class="panel">$assertions</div>
<h2>Plan</h2><div class="panel">$plans</div>
<h2>Forecast</h2><div class="panel">$forecast</div>
<h2>Evidence</h2><div class="panel">$evidence$journal</div>
""")
