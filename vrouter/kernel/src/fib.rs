//! The kernel's routes, neighbours and links, turned into the routes of virtual networks.
