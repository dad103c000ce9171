/** Who is who in the live tests. */
export const CORRESPONDENT = '10.0.0.1';
export const HOME = '10.0.0.2';
export const CARE_OF = '10.0.0.3';
export const PORT = 7000;
export const POD_MAC = '02:00:00:00:0f:01';
export const POD_HOST_MAC = '02:00:00:00:0f:02';
