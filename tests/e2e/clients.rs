//! Clients people already have.

use crate::shared;
use outrider_tests::python;

#[test]
fn does_the_openai_package_work_as_its_users_use_it() {
    python::run("openai_client.py", shared().client_env().clone());
}

#[test]
fn does_the_tritonclient_package_work_over_grpc_and_http() {
    python::run("v2_client.py", shared().client_env().clone());
}
