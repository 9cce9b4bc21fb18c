/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TYPES_H
#define TYPES_H

/* Before the first object is opened: let shim_load tell what programs are attached to. */
void types_register(void);

#endif
