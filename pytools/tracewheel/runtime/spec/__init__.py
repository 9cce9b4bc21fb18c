# SPDX-License-Identifier: BSD-2-Clause
"""What a tool is, and what was asked of it."""
