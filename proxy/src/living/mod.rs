//! Living beside an app: started in order ([`wait`]), ended with its job or by a signal ([`endings`]), and gone only
//! after those who call have heard of it ([`drain`]). A supervisor that wants to know is told ([`notify`]).
//! What is not needed while it is quiet is given back ([`thrift`], `sys`).

pub mod drain;
pub mod endings;
pub mod notify;
mod sys;
pub mod thrift;
pub mod wait;
