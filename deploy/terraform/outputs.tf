output "environment" {
  description = "What the scripts in deploy/ read: eval \"$(terraform output -raw environment)\"."
  value       = <<-END
    export PROJECT=${var.project}
    export REGION=${var.region}
    export BUCKET=${google_storage_bucket.pixelbeam.name}
    export REPOSITORY=${google_artifact_registry_repository.pixelbeam.repository_id}
    export SUBNETWORK=regions/${var.region}/subnetworks/${google_compute_subnetwork.pixelbeam.name}
    export WORKER=${google_service_account.worker.email}
    export BUILDER=${google_service_account.builder.email}
  END
}

output "launcher" {
  description = "The service account for schedulers that submit jobs."
  value       = google_service_account.launcher.email
}
