# SPDX-License-Identifier: BSD-2-Clause
"""The tools: each module declares one value named tool."""
