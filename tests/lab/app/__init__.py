# Copyright (c) FileForge operations
# SPDX-License-Identifier: GPL-3.0-or-later
"""The FileForge application of the lab: an HTTP API, a Celery worker and a writer."""

from __future__ import annotations
