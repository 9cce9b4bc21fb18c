# SPDX-License-Identifier: BSD-2-Clause
"""What is true of this machine."""
