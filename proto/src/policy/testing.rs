//! Policies, requests and strategies for the tests of this room.
