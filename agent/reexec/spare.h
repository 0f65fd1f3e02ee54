/* What a spare init and the one whose place it takes agree on. */

#define SPARE_SOCKET "/run/hyper/spare/socket"
#define SPARE_DESCRIPTORS 32
#define SPARE_MESSAGE 65536
