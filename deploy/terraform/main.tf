# What Pixelbeam needs in a project of Google Cloud: a bucket, a repository for its image, a private subnetwork, and
# three service accounts with the fewest roles that do.
#
# Dataflow's worker role reads and creates objects in every bucket of its project. A project of its own keeps the
# workers from what else there is.

terraform {
  required_version = ">= 1.5"
  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.0, < 8.0"
    }
  }
}

provider "google" {
  project = var.project
  region  = var.region
}

locals {
  # Keys are known before anything is made, which for_each wants.
  launchers = merge(
    { service_account = google_service_account.launcher.member },
    { for member in var.launchers : member => member },
  )
}

resource "google_project_service" "needed" {
  for_each = toset([
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudresourcemanager.googleapis.com", # grants on the project go through it
    "compute.googleapis.com",
    "dataflow.googleapis.com",
    "iam.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "storage.googleapis.com",
  ])
  service            = each.key
  disable_on_destroy = false # others in the project may use them
}

# Modules, temporary files, templates, and datasets where they are to lie beside these.
resource "google_storage_bucket" "pixelbeam" {
  name                        = var.bucket
  location                    = var.region # reading from another region costs time and money
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false # a bucket that holds something stays

  # What is deleted is kept, and paid for, for so many days. Only index parts and files that a later run superseded are
  # deleted here, and pixels are never written, so that a mistake is undone for little.
  soft_delete_policy {
    retention_duration_seconds = var.soft_delete_days * 24 * 3600
  }

  # A Dataflow job runs for two weeks at most, and reads what was staged for it until it ends.
  lifecycle_rule {
    condition {
      age            = 15
      matches_prefix = ["tmp/"]
    }
    action {
      type = "Delete"
    }
  }

  depends_on = [google_project_service.needed]
}

resource "google_artifact_registry_repository" "pixelbeam" {
  location      = var.region # a worker pulls gigabytes as it starts
  repository_id = "pixelbeam"
  description   = "Pixelbeam's worker image, which is its Flex Template's too."
  format        = "DOCKER"

  # Each build leaves gigabytes. A template whose image is gone cannot be launched: build again.
  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"
    condition {
      older_than = "${var.keep_images_days * 24 * 3600}s"
    }
  }
  cleanup_policies {
    id     = "keep-newest"
    action = "KEEP"
    most_recent_versions {
      keep_count = 5
    }
  }

  depends_on = [google_project_service.needed]
}

# Workers have no public addresses: nobody reaches them, and they count against no quota of addresses. They read Google's
# own services through Private Google Access and nothing else.
resource "google_compute_network" "pixelbeam" {
  name                    = "pixelbeam"
  auto_create_subnetworks = false
  depends_on              = [google_project_service.needed]
}

resource "google_compute_subnetwork" "pixelbeam" {
  name                     = "pixelbeam"
  region                   = var.region
  network                  = google_compute_network.pixelbeam.id
  ip_cidr_range            = var.ip_range
  private_ip_google_access = true
}

# Workers of a batch job talk to each other on this port where the service does not shuffle for them; Dataflow tags them.
resource "google_compute_firewall" "workers" {
  name        = "pixelbeam-workers"
  network     = google_compute_network.pixelbeam.id
  source_tags = ["dataflow"]
  target_tags = ["dataflow"]
  allow {
    protocol = "tcp"
    ports    = ["12346"]
  }
}

# The workers, and the launcher of a template, which Dataflow starts as the same account.

resource "google_service_account" "worker" {
  account_id   = "pixelbeam-worker"
  display_name = "Pixelbeam: Dataflow workers"
  depends_on   = [google_project_service.needed]
}

# Takes work from the Dataflow service, reports on it, and writes logs and metrics.
resource "google_project_iam_member" "worker_dataflow" {
  project = var.project
  role    = "roles/dataflow.worker"
  member  = google_service_account.worker.member
}

# Reads modules and index, writes rows, and deletes what a later run supersedes; not the bucket's own settings.
resource "google_storage_bucket_iam_member" "worker_objects" {
  bucket = google_storage_bucket.pixelbeam.name
  role   = "roles/storage.objectUser"
  member = google_service_account.worker.member
}

# Reads the images, and may not touch them.
resource "google_storage_bucket_iam_member" "worker_inputs" {
  for_each = var.input_buckets
  bucket   = each.key
  role     = "roles/storage.objectViewer"
  member   = google_service_account.worker.member
}

# Pulls the image, from this repository alone.
resource "google_artifact_registry_repository_iam_member" "worker_image" {
  location   = google_artifact_registry_repository.pixelbeam.location
  repository = google_artifact_registry_repository.pixelbeam.name
  role       = "roles/artifactregistry.reader"
  member     = google_service_account.worker.member
}

# Whoever submits, watches and cancels: this account for schedulers, and people.

resource "google_service_account" "launcher" {
  account_id   = "pixelbeam-launcher"
  display_name = "Pixelbeam: submits jobs"
  depends_on   = [google_project_service.needed]
}

# Creates, sees and cancels jobs; opens none of their data.
resource "google_project_iam_member" "launcher_dataflow" {
  for_each = local.launchers
  project  = var.project
  role     = "roles/dataflow.developer"
  member   = each.value
}

# Starts jobs whose workers are that account, which Google asks for; no other account.
resource "google_service_account_iam_member" "launcher_acts_as_worker" {
  for_each           = local.launchers
  service_account_id = google_service_account.worker.name
  role               = "roles/iam.serviceAccountUser"
  member             = each.value
}

# Writes the index and what is staged, and reads the receipts.
resource "google_storage_bucket_iam_member" "launcher_objects" {
  for_each = local.launchers
  bucket   = google_storage_bucket.pixelbeam.name
  role     = "roles/storage.objectUser"
  member   = each.value
}

# Lists the images.
resource "google_storage_bucket_iam_member" "launcher_inputs" {
  for_each = {
    for pair in setproduct(keys(local.launchers), var.input_buckets) :
    "${pair[0]} ${pair[1]}" => { launcher = pair[0], bucket = pair[1] }
  }
  bucket = each.value.bucket
  role   = "roles/storage.objectViewer"
  member = local.launchers[each.value.launcher]
}

# Cloud Build, for deploy/cloudbuild.yaml. Its default account could do far more.

resource "google_service_account" "builder" {
  account_id   = "pixelbeam-builder"
  display_name = "Pixelbeam: builds the image and the template"
  depends_on   = [google_project_service.needed]
}

# Pushes the image, to this repository alone.
resource "google_artifact_registry_repository_iam_member" "builder_image" {
  location   = google_artifact_registry_repository.pixelbeam.location
  repository = google_artifact_registry_repository.pixelbeam.name
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.builder.member
}

# Reads the uploaded source, and writes the template.
resource "google_storage_bucket_iam_member" "builder_objects" {
  bucket = google_storage_bucket.pixelbeam.name
  role   = "roles/storage.objectUser"
  member = google_service_account.builder.member
}

# Writes the build's log, since an account of one's own has no bucket of logs.
resource "google_project_iam_member" "builder_log" {
  project = var.project
  role    = "roles/logging.logWriter"
  member  = google_service_account.builder.member
}
