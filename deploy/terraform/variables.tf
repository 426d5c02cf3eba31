variable "project" {
  description = "The project's id. One of its own is best: see main.tf."
  type        = string
  validation {
    condition     = can(regex("^[a-z][-a-z0-9]{4,28}[a-z0-9]$", var.project))
    error_message = "project must be a project's id: 6 to 30 lower-case letters, digits and hyphens."
  }
}

variable "region" {
  description = "A region that has the GPUs and, best, the images: europe-west4, us-central1."
  type        = string
  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region must be a region such as europe-west4, not a zone."
  }
}

variable "bucket" {
  description = "Name of the bucket to make; bucket names are unique in the whole of Google Cloud."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][-_a-z0-9]{1,61}[a-z0-9]$", var.bucket))
    error_message = "bucket must be 3 to 63 lower-case letters, digits, hyphens and underscores."
  }
}

variable "input_buckets" {
  description = "Buckets with images that workers and launchers may read; the bucket made here needs no mention."
  type        = set(string)
  default     = []
  validation {
    condition     = alltrue([for name in var.input_buckets : !startswith(name, "gs://")])
    error_message = "input_buckets must be names of buckets, without gs://."
  }
}

variable "launchers" {
  description = "Who may submit jobs besides the account pixelbeam-launcher: user:..., group:..., serviceAccount:..."
  type        = set(string)
  default     = []
  validation {
    condition     = alltrue([for member in var.launchers : can(regex("^(user|group|serviceAccount):.+@.+$", member))])
    error_message = "launchers must be like user:somebody@example.com."
  }
}

variable "ip_range" {
  description = "Addresses of the workers' subnetwork; each worker takes one."
  type        = string
  default     = "10.74.0.0/20"
  validation {
    condition     = can(cidrhost(var.ip_range, 0))
    error_message = "ip_range must be like 10.74.0.0/20."
  }
}

variable "soft_delete_days" {
  description = "Days for which what is deleted from the bucket can be had back, and is paid for; 0 for none."
  type        = number
  default     = 7
  validation {
    condition     = var.soft_delete_days == 0 || (var.soft_delete_days >= 7 && var.soft_delete_days <= 90)
    error_message = "soft_delete_days must be 0, or from 7 to 90."
  }
}

variable "keep_images_days" {
  description = "Days after which an image is deleted, unless it is one of the newest five."
  type        = number
  default     = 90
  validation {
    condition     = var.keep_images_days >= 1
    error_message = "keep_images_days must be at least 1."
  }
}
