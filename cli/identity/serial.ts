/** A certificate's serial number in the one form in which we compare: capital hexadecimal digits without leading zeros. */
export function serialOf(serialNumber: string): string {
  return serialNumber.toUpperCase().replace(/^0+(?=.)/, '');
}
