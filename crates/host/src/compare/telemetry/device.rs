//! An NVIDIA device, through the driver's own library, which is looked for at run time.

#[cfg(target_env = "musl")]
pub(super) use absent::Device;
#[cfg(not(target_env = "musl"))]
pub(super) use present::Device;

#[cfg(not(target_env = "musl"))]
mod present {
    use nvml_wrapper::Nvml;
    use nvml_wrapper::enum_wrappers::device::TemperatureSensor;

    use crate::compare::record::DeviceSample;

    /// The first device, or why there is none.
    pub struct Device(Result<Nvml, String>);

    impl Device {
        /// Opens the driver's library where an engine computes on `cuda`.
        pub fn open(device: &str) -> Self {
            if device != "cuda" {
                return Device(Err(format!("computes on the {device}")));
            }
            let nvml =
                Nvml::init().map_err(|error| format!("the driver's library (NVML) cannot be used: {error}"));
            Device(nvml.and_then(|nvml| match nvml.device_count() {
                Ok(1..) => Ok(nvml),
                Ok(_) => Err("the driver knows no device".into()),
                Err(error) => Err(error.to_string()),
            }))
        }

        /// Why there are no samples.
        pub fn missing(&self) -> Option<&str> {
            self.0.as_ref().err().map(String::as_str)
        }

        /// Its name, its memory and the driver's version, or why there is none.
        pub fn describe(&self) -> Result<String, String> {
            let nvml = self.0.as_ref().map_err(Clone::clone)?;
            let told = |error: nvml_wrapper::error::NvmlError| error.to_string();
            let device = nvml.device_by_index(0).map_err(told)?;
            let gib = device.memory_info().map_err(told)?.total as f64 / f64::from(1 << 30);
            let name = device.name().map_err(told)?;
            let driver = nvml.sys_driver_version().map_err(told)?;
            Ok(format!("{name}, {gib:.0} GiB, driver {driver}"))
        }

        /// What it is doing; `None` where the driver does not say.
        pub fn sample(&self, t_s: f64) -> Option<DeviceSample> {
            let device = self.0.as_ref().ok()?.device_by_index(0).ok()?;
            Some(DeviceSample {
                t_s,
                utilization: f64::from(device.utilization_rates().ok()?.gpu) / 100.0,
                memory: device.memory_info().ok()?.used,
                // Devices without these sensors are rare, and speak of the rest.
                temperature: device.temperature(TemperatureSensor::Gpu).map_or(0.0, f64::from),
                power_w: device.power_usage().map_or(0.0, |milliwatts| f64::from(milliwatts) / 1e3),
                energy_j: device
                    .total_energy_consumption()
                    .map_or(0.0, |millijoules| millijoules as f64 / 1e3),
            })
        }
    }
}

/// What a static program has: it cannot load a library.
#[cfg(target_env = "musl")]
mod absent {
    use crate::compare::record::DeviceSample;

    /// Why there is no device.
    pub struct Device(String);

    impl Device {
        /// Says why.
        pub fn open(device: &str) -> Self {
            Device(match device {
                "cuda" => {
                    "this is a static program, which cannot load the driver's library (NVML)".to_owned()
                }
                other => format!("computes on the {other}"),
            })
        }

        /// Why there are no samples.
        pub fn missing(&self) -> Option<&str> {
            Some(&self.0)
        }

        /// Why there is none.
        pub fn describe(&self) -> Result<String, String> {
            Err(self.0.clone())
        }

        /// None.
        pub fn sample(&self, _: f64) -> Option<DeviceSample> {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_device_there_is_a_reason() {
        assert_eq!(Device::open("cpu").missing(), Some("computes on the cpu"));
        let cuda = Device::open("cuda");
        assert_eq!(cuda.sample(0.0).is_none(), cuda.missing().is_some());
        assert_eq!(cuda.describe().is_err(), cuda.missing().is_some());
    }
}
