# SPDX-License-Identifier: BSD-2-Clause
"""What all tools share: from a declared tool to rows."""
